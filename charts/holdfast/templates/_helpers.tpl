{{/* The names, labels and settings that templates share. */}}

{{- define "holdfast.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.operator" -}}{{ include "holdfast.fullname" . }}-operator{{- end -}}
{{- define "holdfast.etcd" -}}{{ include "holdfast.fullname" . }}-etcd{{- end -}}
{{- define "holdfast.test" -}}{{ include "holdfast.fullname" . }}-test{{- end -}}

{{/* ClusterRoles have no namespace: two releases of one name must not share them. */}}
{{- define "holdfast.clusterwide" -}}{{ .Release.Namespace }}-{{ include "holdfast.operator" . }}{{- end -}}

{{- define "holdfast.serviceAccount" -}}
{{- default (include "holdfast.operator" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "holdfast.etcdSecret" -}}
{{- default (printf "%s-user" (include "holdfast.etcd" .)) .Values.etcd.auth.existingSecret -}}
{{- end -}}

{{/* Call with (list $ "component"). */}}
{{- define "holdfast.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ default $.Chart.Name $.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{- $ := index . 0 -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name ($.Chart.Version | replace "+" "_") }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Call with (dict "image" {repository, tag, digest} "tag" default). */}}
{{- define "holdfast.image" -}}
{{- if .image.digest -}}{{ .image.repository }}@{{ .image.digest }}
{{- else -}}{{ .image.repository }}:{{ default .tag .image.tag }}
{{- end -}}
{{- end -}}

{{/* Every pod of the chart runs so. */}}
{{- define "holdfast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "holdfast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "holdfast.etcdEndpoints" -}}
{{- $name := include "holdfast.etcd" . -}}
{{- $endpoints := list -}}
{{- range $member := until (int .Values.etcd.replicas) -}}
{{- $endpoints = append $endpoints (printf "%s-%d.%s.%s.svc:2379" $name $member $name $.Release.Namespace) -}}
{{- end -}}
{{ join "," $endpoints }}
{{- end -}}

{{/* The test's job needs an etcd, and an operator that looks after its namespace. */}}
{{- define "holdfast.hasTest" -}}
{{- $watched := has .Values.watchNamespace (list "" .Release.Namespace) -}}
{{- if and .Values.test.enabled $watched (or .Values.etcd.enabled .Values.test.endpoints) -}}true{{- end -}}
{{- end -}}

{{- define "holdfast.testJob" -}}
apiVersion: holdfast.dev/v1alpha1
kind: ElasticJob
metadata:
  name: {{ include "holdfast.test" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "holdfast.selector" (list . "test") | nindent 4 }}
spec:
  program:
    entry: examples/gpt/gpt.py:program
    params: {width: 32, blocks: 2, heads: 2, sequence: 16, global_batch: 16, microbatch: 4}
  steps: 10
  device: cpu
  nodes: {min: {{ .Values.test.nodes }}, max: {{ .Values.test.nodes }}}
  activeDeadlineSeconds: {{ .Values.test.timeout }}
  rendezvous:
    {{- if .Values.test.endpoints }}
    endpoints: {{- toYaml .Values.test.endpoints | nindent 6 }}
    {{- else }}
    endpoints: {{- include "holdfast.etcdEndpoints" . | splitList "," | toYaml | nindent 6 }}
    {{- end }}
    {{- $owned := and .Values.etcd.enabled .Values.etcd.auth.enabled (not .Values.test.endpoints) }}
    {{- with (ternary (include "holdfast.etcdSecret" .) "" $owned | default .Values.test.credentialsSecret) }}
    credentialsSecret: {name: {{ . }}}
    {{- end }}
    {{- with .Values.test.tlsSecret }}
    tlsSecret: {name: {{ . }}}
    {{- end }}
  template:
    spec:
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets: {{- toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: holdfast
          image: {{ .Values.test.image | quote }}
          resources:
            requests: {cpu: 250m, memory: 512Mi}
            limits: {memory: 2Gi}
{{- end -}}
