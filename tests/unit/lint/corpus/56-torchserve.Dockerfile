FROM pytorch/torchserve:0.11.0-cpu
COPY resnet.mar /home/model-server/model-store/
COPY config.properties /home/model-server/
