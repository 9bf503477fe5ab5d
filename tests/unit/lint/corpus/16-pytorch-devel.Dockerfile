ARG TORCH=2.4.0
FROM pytorch/pytorch:${TORCH}-cuda12.4-cudnn9-devel
COPY serve.py /workspace/
