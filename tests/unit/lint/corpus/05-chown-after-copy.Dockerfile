FROM python:3.11
RUN useradd --uid 1000 app
WORKDIR /app
COPY weights/model.safetensors /app/weights/model.safetensors
COPY src /app/src
RUN chown -R app:app /app
USER app
CMD ["python", "-m", "src.model"]
