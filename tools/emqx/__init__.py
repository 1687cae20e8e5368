"""A strict stand-in for EMQX 5.8, as an upstream in tests: its manners, not its features.

`python -m tools.emqx --port 1883` runs it; `tools.emqx.process.Emqx` runs it for a test. It shares
no line with gateway/. What it does is what EMQX 5.8.4 was measured to do and what EMQX's sources
say (emqx_channel, emqx_session_mem, emqx_cm); `tests/chain/test_emqx_*.py` shows each by
raw packets. The rules are at the heads of session.py and broker.py.
"""
