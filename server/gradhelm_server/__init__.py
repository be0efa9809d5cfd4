"""The service: takes what trainers report, keeps it, shows it, and carries threshold changes."""
