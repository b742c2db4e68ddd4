"""What algorithms are made of: functions of tensors."""
