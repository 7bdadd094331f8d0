"""DH-HMAC-CHAP, independent of the transport of its messages."""
