FROM python:3.11
WORKDIR /app
COPY checkpoint.pth.tar /app/
RUN chmod -R 755 /app
CMD ["python"]
