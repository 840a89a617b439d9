{{- /* The image, for its three containers. */ -}}
{{- define "flannel.image" -}}
image: {{ printf "%s:%s" .Values.flannel.image.repository (default .Chart.AppVersion .Values.flannel.image.tag) | quote }}
imagePullPolicy: {{ .Values.flannel.image.pullPolicy }}
{{- end }}

{{- /* net-conf.json. A value that is not set is not in it. */ -}}
{{- define "flannel.network" -}}
{{- $values := .Values.flannel }}
{{- if not (has $values.backend (list "vxlan" "host-gw" "udp" "alloc" "aws-vpc" "gce" "ali-vpc")) }}
{{- fail (printf "flannel.backend is %q: choose one of vxlan, host-gw, udp, alloc, aws-vpc, gce and ali-vpc" $values.backend) }}
{{- end }}
{{- if and (eq $values.backend "udp") (not $values.privileged) }}
{{- fail "flannel.backend is udp, which needs /dev/net/tun: set flannel.privileged to true" }}
{{- end }}
{{- $backend := dict "Type" $values.backend }}
{{- if and $values.backendPort (has $values.backend (list "vxlan" "udp")) }}
{{- $_ := set $backend "Port" (int $values.backendPort) }}
{{- end }}
{{- if eq $values.backend "vxlan" }}
{{- if $values.mtu }}{{ $_ := set $backend "MTU" (int $values.mtu) }}{{ end }}
{{- if $values.vni }}{{ $_ := set $backend "VNI" (int $values.vni) }}{{ end }}
{{- if $values.GBP }}{{ $_ := set $backend "GBP" true }}{{ end }}
{{- if $values.directRouting }}{{ $_ := set $backend "DirectRouting" true }}{{ end }}
{{- if $values.macPrefix }}{{ $_ := set $backend "MacPrefix" $values.macPrefix }}{{ end }}
{{- end }}
{{- $network := dict "EnableNFTables" $values.enableNFTables "Backend" $backend }}
{{- if .Values.podCidr }}
{{- $_ := set $network "Network" .Values.podCidr }}
{{- else }}
{{- $_ := set $network "EnableIPv4" false }}
{{- end }}
{{- if .Values.podCidrv6 }}
{{- $_ := set $network "IPv6Network" .Values.podCidrv6 }}
{{- $_ := set $network "EnableIPv6" true }}
{{- end }}
{{- toPrettyJson $network }}
{{- end }}
