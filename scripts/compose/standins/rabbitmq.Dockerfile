# Stands in for the official `rabbitmq` image, with Debian's packages. What it promises is what the official image's
# documentation promises and compose.yaml uses: the server in the foreground as the user `rabbitmq`, RABBITMQ_DEFAULT_USER
# and RABBITMQ_DEFAULT_PASS (the server itself reads those), /etc/rabbitmq/conf.d, the volume, the command line tools, logs
# on the console, and no Erlang cookie baked in.
FROM holdfast-standin/base
RUN apt-get -q update \
 && apt-get -q -y --no-install-recommends install rabbitmq-server gosu \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb \
 && rm -rf /var/lib/rabbitmq/.erlang.cookie /var/lib/rabbitmq/mnesia \
 && install -d -o rabbitmq -g rabbitmq /etc/rabbitmq/conf.d \
 && printf 'loopback_users.guest = false\nlog.console = true\n' > /etc/rabbitmq/conf.d/10-defaults.conf
ENV HOME=/var/lib/rabbitmq LANG=C.UTF-8 LC_ALL=C.UTF-8 RUNNING_UNDER_SYSTEMD=true PATH=/usr/lib/rabbitmq/bin:$PATH
COPY rabbitmq-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
VOLUME /var/lib/rabbitmq
EXPOSE 4369 5672 15692 25672
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["rabbitmq-server"]
