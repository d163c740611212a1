"""What a probe and a finding are, the runner, run folders."""
