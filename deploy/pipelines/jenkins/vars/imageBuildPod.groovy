// The step `imageBuildPod`: see imageBuildPod.txt.
import groovy.json.JsonOutput

/**
 * As process 1 a plain `sleep` would not heed SIGTERM, and the sidecar, which is told to publish after the last container has
 * ended, would be told when the grace period is over.
 */
@groovy.transform.Field
static final List<String> UNTIL_TERMINATED = ['sh', '-c', 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done']

/** Variables from which the sidecar makes the name of its cache. A pod exists before the checkout, so none is of Git's. */
@groovy.transform.Field
static final List<String> TOLD = ['BRANCH_NAME', 'TAG_NAME', 'CHANGE_ID', 'CHANGE_TARGET']

/** Returns a pod template, as JSON, which is YAML: text of a branch cannot become structure in it. */
String call(Map options = [:]) {
    List<String> unknown = options.keySet().findAll { !(it in ['containers', 'image', 'gitUrl', 'cacheKey', 'fallbackKey']) }.toList()
    if (unknown) {
        error "imageBuildPod: no such option: ${unknown.join(', ')}; there are containers, image, gitUrl, cacheKey, fallbackKey"
    }
    boolean named = env.BRANCH_NAME || env.TAG_NAME || env.CHANGE_ID
    if (!options.cacheKey && !(named && options.gitUrl)) {
        error 'imageBuildPod: expected gitUrl in a multibranch project, or cacheKey, to name the cache after'
    }
    Map annotations = [
        'buildsvc.io/inject': 'true',
        'buildsvc.io/containers': 'image-build',
        'buildsvc.io/cache-key': options.cacheKey ?: '{repository}/{branch}',
    ]
    if (options.fallbackKey) {
        annotations['buildsvc.io/fallback-key'] = options.fallbackKey
    }
    List containers = [[
        name: 'image-build',
        image: options.image ?: 'registry.example/buildsvc/buildsvc-step:0.1.0',
        command: UNTIL_TERMINATED,
        env: variables(options.gitUrl),
        // The sidecar's user, and that of Jenkins' agent: nobody else can read the client's key.
        securityContext: [
            runAsNonRoot: true,
            runAsUser: 1000,
            runAsGroup: 1000,
            allowPrivilegeEscalation: false,
            capabilities: [drop: ['ALL']],
            seccompProfile: [type: 'RuntimeDefault'],
        ],
    ]]
    for (one in (options.containers ?: [:])) {
        containers << [
            name: one.key,
            image: one.value,
            command: UNTIL_TERMINATED,
            env: [[name: 'HOME', value: '/tmp']],
            securityContext: [runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000],
        ]
    }
    return JsonOutput.toJson([
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: [annotations: annotations],
        spec: [automountServiceAccountToken: false, containers: containers],
    ])
}

private List variables(String gitUrl) {
    List found = []
    for (name in TOLD) {
        if (env[name]) {
            found << [name: name, value: literal(env[name])]
        }
    }
    if (gitUrl) {
        found << [name: 'GIT_URL', value: literal(gitUrl)]
    }
    return found
}

/** The kubelet replaces $(NAME) in values, and $$ by $. */
private String literal(String text) {
    return text.replace('$', '$$')
}
