"""Students that torch trains, many at once: arrays in, arrays out."""
