"""DH-HMAC-CHAP, independent of what carries its messages."""
