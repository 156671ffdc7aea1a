{{/* The release's name for things: "moorage" when the release is called so, else "<release>-moorage". */}}
{{- define "moorage.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 32 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* Labels that select a component's pods. Takes (list $ "router"). */}}
{{- define "moorage.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "moorage.labels" -}}
{{- $root := index . 0 -}}
{{ include "moorage.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: moorage
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end -}}

{{/* Image of a target of the Dockerfile. Takes (list $ "router"). */}}
{{- define "moorage.image" -}}
{{- $root := index . 0 -}}
{{ printf "%s/%s:%s" $root.Values.image.repository (index . 1) (default $root.Chart.AppVersion $root.Values.image.tag) }}
{{- end -}}

{{- define "moorage.secret" -}}
{{- default (printf "%s-secrets" (include "moorage.fullname" .)) .Values.secrets.existingSecret -}}
{{- end -}}

{{/* An environment variable from a key of the secret. Takes (list $ "MOORAGE_PEPPER" "pepper"). */}}
{{- define "moorage.secretEnv" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "moorage.secret" (index . 0) }}
      key: {{ index . 2 }}
{{- end -}}

{{/* "true" when a store is to be bundled. Takes its values. */}}
{{- define "moorage.bundled" -}}
{{- if not (or .url .urlSecret.name) -}}true{{- end -}}
{{- end -}}

{{/* A store's URL as a variable: from your Secret, from values, or of the bundled one with the password filled in by
     Kubernetes. Takes (dict "root" $ "env" "MOORAGE_NATS_URL" "store" .Values.nats "passwordKey" ... "bundledUrl" ...). */}}
{{- define "moorage.storeEnv" -}}
{{- if .store.urlSecret.name -}}
- name: {{ .env }}
  valueFrom:
    secretKeyRef:
      name: {{ .store.urlSecret.name }}
      key: {{ .store.urlSecret.key }}
{{- else if .store.url -}}
- name: {{ .env }}
  value: {{ .store.url | quote }}
{{- else -}}
{{ include "moorage.secretEnv" (list .root (printf "%s_PASSWORD" .env) .passwordKey) }}
- name: {{ .env }}
  value: {{ .bundledUrl | quote }}
{{- end -}}
{{- end -}}

{{- define "moorage.natsEnv" -}}
{{ include "moorage.storeEnv" (dict "root" . "env" "MOORAGE_NATS_URL" "store" .Values.nats "passwordKey" "nats-password"
  "bundledUrl" (printf "nats://moorage:$(MOORAGE_NATS_URL_PASSWORD)@%s-nats:4222" (include "moorage.fullname" .))) }}
{{- end -}}

{{- define "moorage.databaseEnv" -}}
{{ include "moorage.storeEnv" (dict "root" . "env" "MOORAGE_DATABASE_URL" "store" .Values.postgres "passwordKey" "postgres-password"
  "bundledUrl" (printf "postgresql+asyncpg://moorage:$(MOORAGE_DATABASE_URL_PASSWORD)@%s-postgres:5432/moorage" (include "moorage.fullname" .))) }}
{{- end -}}

{{/* What every service has. */}}
{{- define "moorage.commonEnv" -}}
- name: MOORAGE_HOST
  value: 0.0.0.0
- name: MOORAGE_PORT
  value: "8080"
- name: MOORAGE_OPS_HOST
  value: 0.0.0.0
- name: MOORAGE_OPS_PORT
  value: "9090"
- name: MOORAGE_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: MOORAGE_LOG_FORMAT
  value: json
{{ include "moorage.natsEnv" . }}
{{- end -}}

{{- define "moorage.rayAuthEnv" -}}
- name: RAY_AUTH_MODE
  value: token
{{ include "moorage.secretEnv" (list . "RAY_AUTH_TOKEN" "ray-token") }}
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- end -}}

{{- define "moorage.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "moorage.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Probes on the operations port. Liveness never looks at dependencies: a restart would not bring them back. */}}
{{- define "moorage.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 3
  timeoutSeconds: 3
{{- end -}}

{{- define "moorage.ports" -}}
- name: http
  containerPort: 8080
- name: ops
  containerPort: 9090
{{- end -}}

{{/* Where a pod may run. Takes the component's values. */}}
{{- define "moorage.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What every pod has. Takes (list $ "router"). */}}
{{- define "moorage.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "moorage.fullname" $root }}-{{ index . 1 }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext: {{- include "moorage.podSecurity" $root | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "moorage.podAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9090"
prometheus.io/path: /metrics
{{- end -}}

{{/* A volume claim template. Takes (dict "name" ... "volume" {size, storageClass}). */}}
{{- define "moorage.claim" -}}
- metadata:
    name: {{ .name }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .volume.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources:
      requests:
        storage: {{ .volume.size }}
{{- end -}}
