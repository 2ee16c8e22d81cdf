"""What neurons do: interventions on many neuron sets at once, judged by linear probes, beside matched controls."""
