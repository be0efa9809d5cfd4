"""Breaking things: processes killed, disks filled, networks cut, calls that raise."""
