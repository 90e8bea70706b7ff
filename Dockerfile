# One image for all roles: `txcoord serve`, `txcoord-agent ...`, and the shop's services.
FROM python:3.13 AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY tools/hatch_build.py tools/
COPY proto proto
COPY txcoord txcoord
COPY sdk sdk
COPY rm_agent rm_agent
RUN python -m venv /opt/txcoord && TXCOORD_COMPILE=1 /opt/txcoord/bin/pip install --no-cache-dir '.[image]'

FROM python:3.13-slim
RUN useradd --system --create-home --home-dir /var/lib/txcoord txcoord
COPY --from=build /opt/txcoord /opt/txcoord
COPY examples /opt/shop/examples
ENV PATH=/opt/txcoord/bin:$PATH PYTHONPATH=/opt/shop PYTHONUNBUFFERED=1
USER txcoord
WORKDIR /var/lib/txcoord
EXPOSE 8190 9190
CMD ["txcoord", "serve"]
