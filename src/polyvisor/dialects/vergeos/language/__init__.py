"""What requests of this API are written in: columns and tables, and the texts of `fields`, `filter` and `sort`.

Pure: texts and rows in, values or a `Refusal` out. Whatever text comes in, the answer is one of the two, and takes
time in proportion to the text, the rows and the answer: texts, depths and work are limited.
Contract: vergeos.md §1.4 to §1.9.
"""
