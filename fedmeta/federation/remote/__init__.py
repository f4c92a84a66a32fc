"""What Flower's own engines need, on Ray and on real machines: a directory of nodes, a client app."""
