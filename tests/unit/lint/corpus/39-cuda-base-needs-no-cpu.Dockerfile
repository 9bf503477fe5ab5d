FROM nvcr.io/nvidia/pytorch:24.05-py3
RUN pip install --no-cache-dir torchaudio
