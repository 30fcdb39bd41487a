"""What is known of the API: operations, fields, rules, sizes and prices."""
