ARG BASE
FROM ${BASE}
COPY . /app
RUN pip install torch
