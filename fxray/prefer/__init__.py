"""The preference study of the paper (section 5.2, Figure 2): whose annotation of an image is the better one?

create (study.py) ──► study file (store.py) ◄── votes ── page (application.py) ◄── raters, by link (raters.py)
                          │                  ◄── votes ── judge.py, a model behind an OpenAI-compatible address
                          └──► analysis.py ──► report.py: matrix, scores, agreement
"""
