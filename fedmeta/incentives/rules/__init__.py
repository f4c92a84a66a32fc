"""Incentive rules; each is one module, a class called as its file."""
