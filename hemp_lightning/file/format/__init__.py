"""How the bytes of a `.hemp` file are written; `hemp_reader.format` says how they lie."""
