"""The whole gateway but its sockets, against a disk, a broker and devices that a seed drives."""
