"""How the bytes of a `.hemp` file lie: storages, directory, sections. FORMAT.md describes it."""
