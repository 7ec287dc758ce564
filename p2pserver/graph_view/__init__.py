"""Drawing a room's event graph: layout, SVG, dot, JSON. Pure: everything it shows is an argument."""
