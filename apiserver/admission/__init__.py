"""What is changed or refused between decoding and storing."""
