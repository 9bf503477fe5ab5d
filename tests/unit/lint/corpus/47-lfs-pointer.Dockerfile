FROM python:3.11-slim
COPY lfs/model.pt /models/model.pt
USER 65532
