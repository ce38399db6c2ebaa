// Runs a Jenkinsfile, or one step of the shared library, with steps of Jenkins that are played here: `sh` runs its script,
// everything else calls the closure that it is given. Prints what was called as one line of JSON. It is no Jenkins: neither its
// sandbox nor its transformation of pipelines into ones that survive a restart is here, nor the grammar of declarative ones.
//
// Arguments: directory of the library's steps, directory of the workspace, and a JSON {env, call | file, options}.
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration

abstract class Pipeline extends Script {
    static File library
    static File workspace
    static GroovyShell shell
    static final List CALLS = []
    static final List<Map> VARIABLES = [[:]]

    static final Map PLAYED = [
        pwd: { Map options -> new File(workspace, options.tmp ? 'workspace@tmp' : 'workspace').path },
        readFile: { Map options -> new File(options.file as String).getText(options.encoding as String) },
        usernamePassword: { Map options -> options },
        error: { String text -> throw new IllegalStateException(text) },
        sh: { Object script -> run(script instanceof Map ? script.script : script) },
    ]

    static final Map AROUND = [
        withEnv: { List variables -> variables.collectEntries { it.toString().split('=', 2).toList() } },
        withCredentials: { List all ->
            all.collectEntries { [(it.usernameVariable): 'robot', (it.passwordVariable): 'secret of ' + it.credentialsId] }
        },
    ]

    // As Jenkins' durable task does: a file, and `sh -xe` on it.
    static void run(Object text) {
        File file = File.createTempFile('script', '.sh', workspace)
        file.text = text
        ProcessBuilder builder = new ProcessBuilder('sh', '-xe', file.path).directory(new File(workspace, 'workspace')).inheritIO()
        builder.redirectOutput(ProcessBuilder.Redirect.DISCARD)
        for (layer in VARIABLES) {
            builder.environment().putAll(layer)
        }
        int status = builder.start().waitFor()
        if (status) {
            throw new IllegalStateException("script returned exit code ${status}")
        }
    }

    def methodMissing(String name, Object arguments) {
        List all = arguments as List
        File step = new File(library, name + '.groovy')
        if (step.file) {
            return shell.parse(step).with { it.binding = this.binding; it.call(*all) }
        }
        Closure body = all && all[-1] instanceof Closure ? all[-1] as Closure : null
        List values = body ? all[0..<-1] : all
        CALLS << [step: name, values: values.collect { it instanceof Closure ? '{}' : it }]
        if (PLAYED[name]) {
            return PLAYED[name].call(*values)
        }
        if (!body) {
            return null
        }
        VARIABLES << (AROUND[name] ? AROUND[name].call(*values) : [:])
        try {
            body.delegate = this
            return body.call()
        } finally {
            VARIABLES.pop()
        }
    }
}

Pipeline.library = new File(args[0])
Pipeline.workspace = new File(args[1])
Map wanted = new JsonSlurper().parseText(args[2]) as Map
Pipeline.VARIABLES[0] = wanted.env
GroovyClassLoader loader = new GroovyClassLoader(this.class.classLoader)
loader.parseClass('@interface Library { String value() }')
CompilerConfiguration configuration = new CompilerConfiguration(scriptBaseClass: 'Pipeline')
Binding binding = new Binding(env: wanted.env, currentBuild: [:])
Pipeline.shell = new GroovyShell(loader, binding, configuration)

Map answer = [:]
try {
    Script script = Pipeline.shell.parse(new File((wanted.file ?: "${args[0]}/${wanted.call}.groovy") as String))
    script.binding = binding
    answer.result = wanted.file ? script.run() : script.call(wanted.options as Map)
} catch (IllegalStateException problem) {
    answer.error = problem.message
}
answer.calls = Pipeline.CALLS
answer.build = binding.variables.currentBuild
println JsonOutput.toJson(answer)
