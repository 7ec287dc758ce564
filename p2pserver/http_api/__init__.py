"""What the edges for apps and for operators share: routing, requests, checked fields, passwords."""
