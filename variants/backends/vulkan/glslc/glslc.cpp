// glslc for ggml: GLSL compute shaders to SPIR-V, by glslang. It takes what vulkan-shaders-gen and the feature tests of ggml's
// CMakeLists.txt pass to glslc, and refuses every other option, so that nothing is ever silently left out.
//
// There is no optimiser: `-O` is taken and changes nothing. Names and other debug information go in with `-g` alone.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "SPIRV/GlslangToSpv.h"
#include "StandAlone/DirStackFileIncluder.h"
#include "glslang/Public/ResourceLimits.h"
#include "glslang/Public/ShaderLang.h"
#include "glslang/build_info.h"

namespace {

const char * const HELP =
    "this glslc takes -fshader-stage=compute, --target-env=vulkan1.2 or vulkan1.3, -o FILE, -DNAME=VALUE, -O, -O0, -g, -MD, -MF FILE, "
    "--version and one file";

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Options {
    std::string input;
    std::string output;
    std::string dependencies;  // file to write, or nothing
    std::string preamble;      // the macros, as GLSL
    glslang::EShTargetClientVersion client = glslang::EShTargetVulkan_1_2;
    glslang::EShTargetLanguageVersion language = glslang::EShTargetSpv_1_5;
    bool debug = false;
    bool version = false;
};

bool begins(const std::string & text, const std::string & with) {
    return text.compare(0, with.size(), with) == 0;
}

std::string macro(const std::string & definition) {
    const size_t equal = definition.find('=');
    const std::string value = equal == std::string::npos ? "1" : definition.substr(equal + 1);
    return "#define " + definition.substr(0, equal) + " " + value + "\n";
}

void set_target(Options & options, const std::string & name) {
    if (name == "vulkan1.2") {
        options.client = glslang::EShTargetVulkan_1_2;
        options.language = glslang::EShTargetSpv_1_5;
    } else if (name == "vulkan1.3") {
        options.client = glslang::EShTargetVulkan_1_3;
        options.language = glslang::EShTargetSpv_1_6;
    } else {
        throw Error("no target " + name + ": " + HELP);
    }
}

Options read_options(const std::vector<std::string> & words) {
    Options options;
    bool write_dependencies = false;
    bool compute = false;
    for (size_t i = 0; i < words.size(); ++i) {
        const std::string & word = words[i];
        const auto value = [&]() -> const std::string & {
            if (i + 1 == words.size()) {
                throw Error(word + " wants a value: " + HELP);
            }
            return words[++i];
        };
        if (word == "--version") {
            options.version = true;
        } else if (word == "-fshader-stage=compute") {
            compute = true;
        } else if (begins(word, "--target-env=")) {
            set_target(options, word.substr(word.find('=') + 1));
        } else if (word == "-o") {
            options.output = value();
        } else if (begins(word, "-D") && word.size() > 2) {
            options.preamble += macro(word.substr(2));
        } else if (word == "-g") {
            options.debug = true;
        } else if (word == "-MD") {
            write_dependencies = true;
        } else if (word == "-MF") {
            options.dependencies = value();
        } else if (word == "-O" || word == "-O0") {
            continue;
        } else if (begins(word, "-") || !options.input.empty()) {
            throw Error("unknown option " + word + ": " + HELP);
        } else {
            options.input = word;
        }
    }
    if (options.version) {
        return options;
    }
    if (options.input.empty() || options.output.empty() || !compute) {
        throw Error(std::string("no input, no output or no stage: ") + HELP);
    }
    if (!write_dependencies) {
        options.dependencies.clear();
    } else if (options.dependencies.empty()) {
        options.dependencies = options.output + ".d";
    }
    return options;
}

std::string read_file(const std::string & path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    if (!file || !(text << file.rdbuf())) {
        throw Error("cannot read " + path);
    }
    return text.str();
}

// glslang's messages go to stderr: CMake looks there for "extension not supported".
void compile(glslang::TShader & shader, const Options & options, DirStackFileIncluder & includer, std::vector<uint32_t> & spirv) {
    const std::string source = read_file(options.input);
    const char * strings[] = {source.c_str()};
    const int lengths[] = {static_cast<int>(source.size())};
    const char * names[] = {options.input.c_str()};
    const std::string preamble = options.preamble + "#extension GL_GOOGLE_include_directive : enable\n";
    const auto messages = static_cast<EShMessages>(EShMsgCascadingErrors | EShMsgSpvRules | EShMsgVulkanRules);
    shader.setStringsWithLengthsAndNames(strings, lengths, names, 1);
    shader.setPreamble(preamble.c_str());
    shader.setEntryPoint("main");
    shader.setEnvInput(glslang::EShSourceGlsl, EShLangCompute, glslang::EShClientVulkan, 100);
    shader.setEnvClient(glslang::EShClientVulkan, options.client);
    shader.setEnvTarget(glslang::EShTargetSpv, options.language);
    const bool parsed = shader.parse(GetDefaultResources(), 110, ENoProfile, false, false, messages, includer);
    std::cerr << shader.getInfoLog();
    if (!parsed) {
        throw Error(options.input + " does not compile");
    }
    glslang::TProgram program;
    program.addShader(&shader);
    if (!program.link(EShMsgDefault) || !program.mapIO()) {
        throw Error(options.input + " cannot be linked: " + program.getInfoLog());
    }
    glslang::SpvOptions how;
    how.generateDebugInfo = options.debug;
    how.stripDebugInfo = false;  // glslang needs SPIRV-Tools for it
    how.disableOptimizer = true;
    spv::SpvBuildLogger logger;
    glslang::GlslangToSpv(*program.getIntermediate(EShLangCompute), spirv, &logger, &how);
    std::cerr << logger.getAllMessages();
    if (spirv.empty()) {
        throw Error(options.input + " gave no SPIR-V");
    }
}

// Without the instructions that only describe: the sources, names, lines and the modules that worked on it.
std::vector<uint32_t> without_debug(const std::vector<uint32_t> & spirv) {
    const size_t header = 5;
    std::vector<uint32_t> kept(spirv.begin(), spirv.begin() + header);
    for (size_t at = header; at < spirv.size();) {
        const uint32_t length = spirv[at] >> 16;
        const uint32_t instruction = spirv[at] & 0xffff;
        if (length == 0 || at + length > spirv.size()) {
            throw Error("glslang wrote damaged SPIR-V");
        }
        const bool describes = (instruction >= 2 && instruction <= 6) ||  // OpSourceContinued, -Source, -Extension, OpName, OpMemberName
                               instruction == 8 || instruction == 317 || instruction == 330;  // OpLine, OpNoLine, OpModuleProcessed
        if (!describes) {
            kept.insert(kept.end(), spirv.begin() + at, spirv.begin() + at + length);
        }
        at += length;
    }
    return kept;
}

void write(const std::string & path, const void * content, size_t size) {
    const bool to_stdout = path == "-";
    FILE * file = to_stdout ? stdout : fopen(path.c_str(), "wb");
    const bool written = file && fwrite(content, 1, size, file) == size;
    const bool closed = file && (to_stdout ? fflush(file) : fclose(file)) == 0;
    if (!written || !closed) {
        if (file && !to_stdout) {
            std::remove(path.c_str());
        }
        throw Error("cannot write " + path);
    }
}

void run(const std::vector<std::string> & words) {
    const Options options = read_options(words);
    if (options.version) {
        std::printf("glslang %d.%d.%d%s, without an optimiser\n", GLSLANG_VERSION_MAJOR, GLSLANG_VERSION_MINOR, GLSLANG_VERSION_PATCH,
                    GLSLANG_VERSION_FLAVOR);
        return;
    }
    std::vector<uint32_t> spirv;
    DirStackFileIncluder includer;
    glslang::InitializeProcess();
    {
        glslang::TShader shader(EShLangCompute);
        compile(shader, options, includer, spirv);
    }
    glslang::FinalizeProcess();
    if (!options.debug) {
        spirv = without_debug(spirv);
    }
    write(options.output, spirv.data(), spirv.size() * sizeof(uint32_t));
    if (!options.dependencies.empty()) {
        std::string text = options.output + ": " + options.input;  // unquoted, as glslc writes it and vulkan-shaders-gen reads it
        for (const std::string & name : includer.getIncludedFiles()) {
            text += " " + name;
        }
        text += "\n";
        write(options.dependencies, text.data(), text.size());
    }
}

}  // namespace

int main(int count, char ** words) {
    try {
        run({words + 1, words + count});
        return 0;
    } catch (const std::exception & error) {
        std::cerr << "glslc: error: " << error.what() << "\n";
        return 1;
    }
}
