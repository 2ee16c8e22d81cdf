"""What chance would find, and how sure a finding is."""
