"""Exact L2-regularised logistic regression: many strengths at once, with a certificate for each.

`problem` is what the rest of tle asks. `design` holds or streams the rows, `objective` makes a pass over them by `products`,
`curvature` decides when to take a `bound` or a `preconditioner`, which `factors` inverts, `lbfgs` steps, `solver` goes on until
`certificate` bounds what is missing, `path` goes from strength to strength and begins each with `trail`; `newton` is for small
problems, `device` for tensors.
"""
