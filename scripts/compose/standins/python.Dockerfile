# Stands in for `python:3.13-slim-trixie`: the same Debian, the same Python series, from Debian's own packages.
FROM holdfast-standin/base
RUN ln -s /usr/bin/python3 /usr/local/bin/python
ENV LANG=C.UTF-8
CMD ["python3"]
