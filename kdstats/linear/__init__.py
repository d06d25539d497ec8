"""The algebra of linear students: least squares, coefficient maps, and the law of their labels."""
