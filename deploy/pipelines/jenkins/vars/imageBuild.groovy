// The step `imageBuild`: see imageBuild.txt. Each option is a variable of `buildsvc image-build`, since no text of a branch, a
// tag or a caller may become part of a shell script.
import groovy.transform.Field

/** Options with one value, by the variable that takes it. */
@Field
static final Map<String, String> ONE = [
    repository: 'REPOSITORY',
    registry: 'REGISTRY',
    registryCa: 'REGISTRY_CA',
    registrySecret: 'REGISTRY_SECRET',
    version: 'VERSION',
    context: 'CONTEXT',
    dockerfile: 'DOCKERFILE',
    target: 'TARGET',
    sbom: 'SBOM',
    provenance: 'PROVENANCE',
    push: 'PUSH',
    noCache: 'NO_CACHE',
    wait: 'WAIT',
]

/** Options with a list of values: each is a line of its variable. */
@Field
static final Map<String, String> SEVERAL = [
    tags: 'TAG',
    platforms: 'PLATFORM',
    buildArgs: 'BUILD_ARG',
    secrets: 'SECRET',
    ssh: 'SSH',
    labels: 'LABEL',
    annotations: 'ANNOTATION',
    outputs: 'OUTPUT',
    cacheFrom: 'CACHE_FROM',
    cacheTo: 'CACHE_TO',
    frontendOpts: 'FRONTEND_OPT',
]

/** Options of this step alone. */
@Field
static final List<String> OWN = ['container', 'credentials', 'git']

/** Builds and pushes an image; returns its digest, name, reference and references. */
Map call(Map options = [:]) {
    List<String> unknown = options.keySet().findAll { !(it in ONE || it in SEVERAL || it in OWN) }.toList()
    if (unknown) {
        error "imageBuild: no such option: ${unknown.join(', ')}; there are ${(ONE.keySet() + SEVERAL.keySet() + OWN).join(', ')}"
    }
    // Beside the workspace, so that it is no part of a build context.
    String results = "${pwd(tmp: true)}/image-build-${UUID.randomUUID()}.env"
    List<String> variables = variablesOf([version: '{short_commit}'] + options) + ["BUILDSVC_IMAGE_DOTENV=${results}".toString()]
    container(options.container ?: 'image-build') {
        withCredentials(credentialsOf(options.credentials)) {
            withEnv(variables) {
                sh label: 'buildsvc image-build', script: 'exec buildsvc image-build'
            }
        }
    }
    return resultsOf(readFile(file: results, encoding: 'UTF-8'))
}

private List<String> variablesOf(Map options) {
    List<String> variables = []
    for (option in ONE) {
        if (options[option.key] != null) {
            variables << "BUILDSVC_IMAGE_${option.value}=${switchOf(options[option.key])}".toString()
        }
    }
    for (option in SEVERAL) {
        if (options[option.key] != null) {
            variables << "BUILDSVC_IMAGE_${option.value}=${listOf(option.key, options[option.key]).join('\n')}".toString()
        }
    }
    // What `checkout scm` returns: a scripted pipeline has it nowhere else.
    for (fact in (options.git ?: [:])) {
        if (fact.value != null) {
            variables << "${fact.key}=${fact.value}".toString()
        }
    }
    return variables
}

private String switchOf(Object value) {
    return value instanceof Boolean ? (value ? 'on' : 'off') : value.toString()
}

private List<String> listOf(String name, Object value) {
    if (!(value instanceof List)) {
        error "imageBuild: ${name}: expected a list such as ['${value}'], found ${value}"
    }
    return value.collect { it.toString() }
}

private List credentialsOf(String id) {
    if (!id) {
        return []
    }
    return [usernamePassword(
        credentialsId: id,
        usernameVariable: 'BUILDSVC_IMAGE_REGISTRY_USER',
        passwordVariable: 'BUILDSVC_IMAGE_REGISTRY_PASSWORD',
    )]
}

private Map resultsOf(String text) {
    Map found = [:]
    for (line in text.readLines()) {
        int equals = line.indexOf('=')
        if (line.startsWith('IMAGE_') && equals > 0) {
            found[line.substring('IMAGE_'.length(), equals).toLowerCase()] = line.substring(equals + 1)
        }
    }
    return found
}
