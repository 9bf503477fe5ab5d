FROM nvidia/cuda:12.4.1-cudnn-devel-ubuntu22.04
RUN apt-get update && apt-get install -y python3-pip git
WORKDIR /app
COPY . .
RUN pip install -r requirements.txt
COPY --chown=root:root checkpoint.pth.tar ./model/
CMD ["python3", "serve.py"]
