FROM
RUN pip install torch
