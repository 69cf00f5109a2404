"""The native API's types and stream framing, shared by the native dialect and the client; imports nothing of ours."""
