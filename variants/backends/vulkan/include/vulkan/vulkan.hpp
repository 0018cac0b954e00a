// The <vulkan/vulkan.hpp> that comes next on the include path, and what ggml-vulkan.cpp names beyond it.
#pragma once
#include_next <vulkan/vulkan.hpp>

// The C++ headers of the package index are older than its C headers (variants/backends/vulkan/headers.py).
#if VK_HEADER_VERSION <= 290 && defined(VK_NV_cooperative_matrix2)
namespace vk {

using PipelineCreateFlagBits2 = PipelineCreateFlagBits2KHR;
using PipelineCreateFlags2 = PipelineCreateFlags2KHR;
using PipelineCreateFlags2CreateInfo = PipelineCreateFlags2CreateInfoKHR;

struct PhysicalDeviceCooperativeMatrix2PropertiesNV : VkPhysicalDeviceCooperativeMatrix2PropertiesNV {
    PhysicalDeviceCooperativeMatrix2PropertiesNV() : VkPhysicalDeviceCooperativeMatrix2PropertiesNV{} {
        sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_PROPERTIES_NV;
    }
};

}  // namespace vk
#endif

// The three types of VK_EXT_layer_settings for headers older than 1.3.272, named when the instance is made. They describe settings of
// the validation layer and do nothing where that layer is not asked for.
#if VK_HEADER_VERSION < 272
#include <cstdint>
#include <vector>

namespace vk {

enum class LayerSettingTypeEXT : std::int32_t { eBool32 = 0 };

// Laid out as VkLayerSettingEXT.
struct LayerSettingEXT {
    const char * pLayerName;
    const char * pSettingName;
    LayerSettingTypeEXT type;
    std::uint32_t valueCount;
    const void * pValues;
};

// Laid out as VkLayerSettingsCreateInfoEXT; the number is VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT.
struct LayerSettingsCreateInfoEXT {
    StructureType sType = static_cast<StructureType>(1000496000);
    const void * pNext = nullptr;
    std::uint32_t settingCount;
    const LayerSettingEXT * pSettings;

    LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<std::uint32_t>(settings.size())), pSettings(settings.data()) {}
};

}  // namespace vk
#endif
