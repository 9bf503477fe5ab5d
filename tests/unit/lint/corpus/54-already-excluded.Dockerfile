FROM python:3.11-slim
WORKDIR /app
COPY --link checkpoint.pth.tar /app/
COPY --exclude=**/*.safetensors --exclude=*.pth.tar --exclude=lfs --exclude=big . .
USER 1000
