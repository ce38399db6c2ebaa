# The control plane: certificates, etcd, the API server, controllers and the scheduler. Sourced.
# shellcheck shell=bash
# shellcheck disable=SC2154  # state, keys, node, gateway, services, api and etcd are tools/cluster.sh's.

days=30

# issue NAME SUBJECT EXTENSIONS: a key and a certificate of the cluster's authority.
issue() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -out "$1.crt" -extfile <(printf '%s\n' "$3")
}

# kubeconfig NAME: for the certificate of that name.
kubeconfig() {
  local config=(kubectl config "--kubeconfig=$state/$1.kubeconfig")
  "${config[@]}" set-cluster here --server="$api" --certificate-authority="$keys/ca.crt" --embed-certs
  "${config[@]}" set-credentials "$1" --client-certificate="$keys/$1.crt" --client-key="$keys/$1.key" --embed-certs
  "${config[@]}" set-context here --cluster=here --user="$1"
  "${config[@]}" use-context here
  chmod 0600 "$state/$1.kubeconfig"
}

certificates() {
  cd -- "$keys"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days "$days" -subj /CN=buildsvc-test-cluster
  issue apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth
subjectAltName=IP:$gateway,IP:127.0.0.1,IP:$first_service,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  issue admin /O=system:masters/CN=admin extendedKeyUsage=clientAuth
  issue kubelet "/O=system:nodes/CN=system:node:$node" extendedKeyUsage=clientAuth
  openssl ecparam -name prime256v1 -genkey -noout -out accounts.key
  openssl ec -in accounts.key -pubout -out accounts.pub
  kubeconfig admin
  kubeconfig kubelet
}

make_certificates() {
  (umask 077 && mkdir -p "$keys" && certificates) >"$logs/certificates.log" 2>&1 ||
    die "no certificates; see $logs/certificates.log"
  export KUBECONFIG=$state/admin.kubeconfig
}

start_plane() {
  # Its data ends with the cluster, so nothing is synced.
  start etcd etcd --data-dir="$state/etcd" --unsafe-no-fsync --listen-client-urls="$etcd" --advertise-client-urls="$etcd" \
    --listen-peer-urls=http://127.0.0.1:12380 --initial-advertise-peer-urls=http://127.0.0.1:12380 \
    --initial-cluster=default=http://127.0.0.1:12380
  start kube-apiserver kube-apiserver --etcd-servers="$etcd" --bind-address="$gateway" --advertise-address="$gateway" \
    --tls-cert-file="$keys/apiserver.crt" --tls-private-key-file="$keys/apiserver.key" --client-ca-file="$keys/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$keys/accounts.pub" --service-account-signing-key-file="$keys/accounts.key" \
    --service-cluster-ip-range="$services" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --kubelet-client-certificate="$keys/admin.crt" --kubelet-client-key="$keys/admin.key" \
    --kubelet-preferred-address-types=InternalIP --allow-privileged=true --profiling=false
  wait_for "answer of the API server" 90 kube-apiserver kubectl get --raw /readyz
  local config=(--kubeconfig="$KUBECONFIG" --authentication-kubeconfig="$KUBECONFIG"
    --authorization-kubeconfig="$KUBECONFIG" --bind-address=127.0.0.1 --leader-elect=false)
  start kube-controller-manager kube-controller-manager "${config[@]}" --use-service-account-credentials \
    --root-ca-file="$keys/ca.crt" --service-account-private-key-file="$keys/accounts.key" \
    --cluster-signing-cert-file="$keys/ca.crt" --cluster-signing-key-file="$keys/ca.key"
  start kube-scheduler kube-scheduler "${config[@]}"
}
