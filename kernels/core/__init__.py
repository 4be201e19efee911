"""What every op stands on: the choice of a backend, the way into torch.ops, the libraries, draws and flat buffers."""
