"""How a global transaction travels from process to process: a module for each kind of call, and headers by hand.

On the way out a carrier adds the XID, and sees to it that a call without an answer makes commit impossible: whether the other
side has done its part is not known. On the way in it makes the caller's transaction the current one, and lets the answer go only
after everything that belongs to the call has ended.
"""
