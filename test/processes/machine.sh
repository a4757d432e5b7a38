# Boots a machine of its own: this system's files below an overlay, systemd as PID 1, no network but its own. Changes in it are
# gone with it. Called with: NSPAWN FOLDER ROOT NODE; FOLDER has units/ and out/, which is /out inside; ROOT is /opt/fd-broker there.
nspawn=$1 folder=$2 root=$3 node=$4
mount -t tmpfs tmpfs "$folder/machine" && cd "$folder/machine" && mkdir upper work root || exit 9
mount -t overlay overlay -o "lowerdir=/,upperdir=upper,workdir=work" root && mount -t tmpfs tmpfs /run || exit 9
mkdir -p root/etc/systemd/system root/out root/opt
cp -r "$folder"/units/* root/etc/systemd/system/
echo 11111111111111111111111111111111 >root/etc/machine-id
printf '#!/bin/sh\nexec "%s" /opt/fd-broker/dist/cli.cjs "$@"\n' "$node" >root/usr/bin/fd-broker
chmod 755 root/usr/bin/fd-broker
exec "$nspawn" -q --register=no --keep-unit --private-network --link-journal=no --tmpfs=/tmp --tmpfs=/var/tmp \
  --bind="$folder/out:/out" --bind-ro="$root:/opt/fd-broker" --console=pipe -D root -b systemd.unit=test.target systemd.show_status=0
