"""minik: puts a cluster together and takes it apart; nothing imports it."""
