"""What this machine has, and how far its backends and precisions are from float32."""
