"""Runs one service of the shop until it is told to stop."""

from __future__ import annotations

import argparse

import uvicorn
from fastapi import FastAPI


def serve(app: FastAPI) -> None:
    """Serve `app` on the port that the command line names."""
    parser = argparse.ArgumentParser(description=app.title)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    # Longer than clients keep idle connections, so that none is closed here while a call is on its way.
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", timeout_keep_alive=60)
