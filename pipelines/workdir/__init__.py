"""Where artifacts and unfinished work lie: a folder, or an object store with a cache here."""
