#!/bin/sh
# What `make run` does: a small CA with an RSA and an ECDSA certificate for localhost, then moongate with
# quickstart.lua in front of its embedded backend. Usage: examples/quickstart.sh BUILD_DIR
set -eu
out=${1:?usage: examples/quickstart.sh BUILD_DIR}
examples=$(dirname "$0")
dir=$out/quickstart
control=$dir/control.sock

mkdir -p "$dir"
umask 077

# issue NAME: a certificate for localhost, signed by the CA, for the key that is there already.
issue() {
    openssl req -new -key "$dir/$1.key" -subj "/CN=localhost" -out "$dir/$1.csr"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nbasicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth\n' >"$dir/$1.ext"
    openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" \
        -set_serial "0x$(openssl rand -hex 8)" -days 90 -extfile "$dir/$1.ext" -out "$dir/$1.crt" 2>/dev/null
    cat "$dir/$1.crt" "$dir/ca.crt" "$dir/$1.key" >"$dir/$1.pem"
    rm -f "$dir/$1.csr" "$dir/$1.ext"
}

# A day before anything ends, everything is made anew.
current() {
    for name in ca rsa ecdsa; do
        [ -s "$dir/$name.key" ] && { [ $name = ca ] || [ -s "$dir/$name.pem" ]; } && openssl x509 -in "$dir/$name.crt" -noout -checkend 86400 >/dev/null 2>&1 || return 1
    done
}
if ! current; then
    echo "Making a CA, an RSA-2048 and an ECDSA P-256 certificate for localhost in $dir" >&2
    openssl ecparam -name prime256v1 -genkey -noout -out "$dir/ca.key"
    openssl req -x509 -new -key "$dir/ca.key" -subj "/CN=moongate quickstart CA" -days 365 \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.crt"
    openssl genrsa -out "$dir/rsa.key" 2048 2>/dev/null
    openssl ecparam -name prime256v1 -genkey -noout -out "$dir/ecdsa.key"
    issue rsa
    issue ecdsa
fi

# As root, moongate runs root's scripts only; a checkout may belong to somebody else.
script=$examples/quickstart.lua
if [ "$(id -u)" = 0 ] && [ "$(stat -c %u "$script")" != 0 ]; then
    cp "$script" "$dir/quickstart.lua"
    script=$dir/quickstart.lua
fi

cat <<END

moongate answers on https://localhost:8443. In another terminal, try:

  curl --cacert $dir/ca.crt https://localhost:8443/
  openssl s_client -connect localhost:8443 -CAfile $dir/ca.crt -sigalgs ECDSA+SHA256 -brief </dev/null
  openssl s_client -connect localhost:8443 -CAfile $dir/ca.crt -sigalgs RSA-PSS+SHA256 -brief </dev/null

Edit $script: the change takes effect when you save (--watch), or by hand:

  $out/moongate reload --control $control
  $out/moongate status --control $control

Ctrl-C ends it.

END
MOONGATE_QUICKSTART=$(cd "$dir" && pwd)
export MOONGATE_QUICKSTART
exec "$out/moongate" run "$script" --watch --control "$control"
