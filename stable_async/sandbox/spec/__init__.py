"""The known facts of the API: operations, fields, rules, sizes and prices."""
